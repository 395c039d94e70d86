"""What the commands share: options, run folders, progress, summaries. Only the commands and `train` import this."""
