"""Starting jobs of several processes."""
