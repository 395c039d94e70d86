"""How good generated images are: a file for every measure."""
