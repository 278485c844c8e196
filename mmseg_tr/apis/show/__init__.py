"""Pictures of what a method did: merged tokens and attention."""
