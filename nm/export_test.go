package nm

// Gone is for the tests on the real NetworkManager.
var Gone = gone
