"""What the paper measured, and measuring it again."""
