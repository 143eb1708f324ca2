"""What goes on inside a network while it is trained: numbers per activation site."""
