"""How the text-to-video example was made; run as modules from the folder above."""
