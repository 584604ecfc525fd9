"""The nouns, frozen. This folder imports nothing of ours."""
