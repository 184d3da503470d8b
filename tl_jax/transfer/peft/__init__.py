"""Parameter-efficient methods: LoRA, scale and shift, adapters."""
