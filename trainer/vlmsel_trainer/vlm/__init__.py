"""What any vision-language model needs from a sample: conversations, chat template, tokens, pictures, batches, and a model to load.

Scoring uses it; nothing in here knows what is done with the model.
"""
