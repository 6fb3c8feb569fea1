// The ticket kiosk at the ferry landing.

const RETURN_DISCOUNT = 0.25;

/* A family is at most two adults and three children. */
function familyTicketPrice(adults, children) {
  return Math.min(adults * 9 + children * 4, 24);
}

// Coins are refused below minus ten degrees, because the slot freezes.
function acceptsCoins(celsius) {
  return celsius > -10;
}
