"""From one step's lessons to the student's update."""
