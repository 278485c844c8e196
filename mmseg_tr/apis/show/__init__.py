"""Draw what a method does: merged tokens and attention."""
