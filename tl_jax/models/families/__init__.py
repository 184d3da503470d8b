"""The networks, one file a family of timm."""
