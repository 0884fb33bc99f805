"""File formats of other programs: each form is the one that the program itself writes and reads back."""
