"""A page on this machine on which a person asks a network about pictures."""
