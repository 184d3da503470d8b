"""Transfer methods: what is trained, what is added and what is carried over, over pytrees."""
