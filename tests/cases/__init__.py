"""Small data sets as users have them, each with its right outcome, through the command line."""
