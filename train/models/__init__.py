"""Networks that a flow is learned with."""
