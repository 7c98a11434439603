"""The language model side of the method: who judges an item for a user, what it is asked, and what it answered."""
