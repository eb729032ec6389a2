//go:build !race

package sim

// everySeeds is how often TestScenarios runs each scenario.
const everySeeds = 50
