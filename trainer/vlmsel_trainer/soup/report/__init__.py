"""What a soup says of itself: on the terminal, in its model card, in a picture, and where it comes from."""
