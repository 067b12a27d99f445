"""Images, networks and the recipe that trains them."""
