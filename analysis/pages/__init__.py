"""The web pages that show a study."""
