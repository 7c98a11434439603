"""The language model side of the method: who judges an item for a user, what is asked, and what was answered."""
