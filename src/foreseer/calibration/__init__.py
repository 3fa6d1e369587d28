"""From a few prompts to second moments, and from these to rows and steps."""
