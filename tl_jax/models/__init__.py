"""CNN families of timm as pure-functional Linen modules, and the registry of their names."""
