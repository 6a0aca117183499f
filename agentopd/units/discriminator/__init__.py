"""A discriminator of teacher's and student's episodes, which learns beside the student."""
