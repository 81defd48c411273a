"""What people look at: loci as pictures, pages and browser sessions."""
