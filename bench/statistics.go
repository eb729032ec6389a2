package bench

import (
	"math"
	"math/rand/v2"
	"slices"
)

const (
	resamples = 2000
	// fewRounds are too few to say anything of a spread.
	fewRounds = 3
	// A series that spreads further than this, or a ratio with a wider interval, is called noisy.
	noisySpread   = 0.15
	noisyInterval = 0.30
)

// median of values; NaN for none.
func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile interpolates between the values on both sides of the q-th part of the sorted values.
func quantile(values []float64, q float64) float64 {
	return sortedQuantile(slices.Sorted(slices.Values(values)), q)
}

func sortedQuantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	part := at - float64(low)
	return sorted[low]*(1-part) + sorted[low+1]*part
}

// spread is the distance between the quartiles as a part of the median.
func spread(values []float64) float64 {
	m := median(values)
	if m == 0 || len(values) < 2 {
		return 0
	}
	return (quantile(values, 0.75) - quantile(values, 0.25)) / math.Abs(m)
}

// ratioOf compares two series that were measured in turns, round by round: the median of the rounds' ratios and its 95 %
// bootstrap interval. What the machine did in a round it did to both.
func ratioOf(of, to []float64) (ratio, low, high float64) {
	ratios := make([]float64, min(len(of), len(to)))
	for i := range ratios {
		ratios[i] = of[i] / to[i]
	}
	if len(ratios) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	// A fixed seed: the same numbers give the same interval.
	rng := rand.New(rand.NewPCG(1, 2))
	medians, drawn := make([]float64, resamples), make([]float64, len(ratios))
	for i := range medians {
		for j := range drawn {
			drawn[j] = ratios[rng.IntN(len(ratios))]
		}
		medians[i] = median(drawn)
	}
	return median(ratios), quantile(medians, 0.025), quantile(medians, 0.975)
}
