"""The benchmark on a GPU: `suite` runs the cases of `table`, each in a process of its own."""
