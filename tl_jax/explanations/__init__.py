"""Why a network says what it says: maps over an image, their faithfulness, and pictures of them."""
