"""Image files and bytes, decoded into 8-bit RGB arrays."""
