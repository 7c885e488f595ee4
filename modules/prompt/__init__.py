"""The prompt language and infotext: text to structure and back."""
