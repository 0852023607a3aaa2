"""One suite of behaviours that every provider has to show, against servers that speak its protocol."""
