"""Commands of the trainer, one module each; torch is imported inside a command's body, never at import."""
