"""The steps of a fulfillment order, from carrier selection to delivery."""
