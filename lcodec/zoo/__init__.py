"""Models as things to have: fetch them, check them, say what they cost and give."""
