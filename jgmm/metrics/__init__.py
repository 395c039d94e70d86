"""What a fitted mixture says of data: likelihoods, anomalies, information criteria."""
