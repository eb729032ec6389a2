package bench

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestQuantiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{nil, 0.5, math.NaN()},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{4, 1, 3, 2}, 0, 1},
		{[]float64{4, 1, 3, 2}, 1, 4},
		{[]float64{0, 10}, 0.25, 2.5},
	} {
		if got := quantile(c.values, c.q); !cmp.Equal(got, c.want, cmpopts.EquateNaNs(), cmpopts.EquateApprox(0, 1e-9)) {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
	values := []float64{3, 1, 2}
	quantile(values, 0.5)
	if diff := cmp.Diff([]float64{3, 1, 2}, values); diff != "" {
		t.Errorf("quantile sorted its argument:\n%s", diff)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	if got := spread([]float64{90, 100, 110, 95, 105}); math.Abs(got-0.10) > 1e-9 {
		t.Errorf("spread is %v, want 0.10", got)
	}
	if got := spread([]float64{5}); got != 0 {
		t.Errorf("spread of one value is %v", got)
	}
}

func TestRatioFollowsTheRounds(t *testing.T) {
	t.Parallel()
	// A machine that gets slower and slower does so for both.
	ratio, low, high := ratioOf([]float64{20, 10, 4, 2, 1}, []float64{10, 5, 2, 1, 0.5})
	if ratio != 2 || low != 2 || high != 2 {
		t.Errorf("got %v, %v to %v; want 2 in every way", ratio, low, high)
	}
	ratio, low, high = ratioOf([]float64{10, 20, 30, 40, 50}, []float64{10, 10, 10, 10, 10})
	if ratio != 3 || low >= 2.01 || high <= 3.99 {
		t.Errorf("got %v, %v to %v; want 3 and an interval of at least 2 to 4", ratio, low, high)
	}
	if ratio, _, _ := ratioOf(nil, []float64{1}); !math.IsNaN(ratio) {
		t.Errorf("ratio of nothing is %v", ratio)
	}
}

// pipe is a path that carries so much and no more; every n-th try is disturbed.
type pipe struct {
	capacity, generator float64
	disturbed, tries    int
}

func (p *pipe) try(rate float64) (trial, error) {
	p.tries++
	t := trial{offered: min(rate, p.generator)}
	t.carried = min(t.offered, p.capacity)
	if p.disturbed > 0 && p.tries%p.disturbed == 0 {
		t.carried *= 0.9
	}
	t.loss = 1 - t.carried/t.offered
	return t, nil
}

func TestSearchFindsTheRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		guess float64
		pipe  pipe
		want  float64
	}{
		{"from a flood", 0, pipe{capacity: 1e6, generator: 1e7}, 1e6},
		{"from a good guess", 0.99e6, pipe{capacity: 1e6, generator: 1e7}, 1e6},
		{"from far below", 1e5, pipe{capacity: 3e5, generator: 1e7}, 3e5},
		{"from far above", 3e6, pipe{capacity: 1e6, generator: 1e7}, 1e6},
		{"on a machine that is disturbed", 1e6, pipe{capacity: 1e6, generator: 1e7, disturbed: 4}, 1e6},
		{"no faster than the generator", 0, pipe{capacity: 1e7, generator: 1e6}, 1e6},
	} {
		best, err := search(c.guess, c.pipe.try)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if best.carried < 0.95*c.want || best.carried > 1.0001*c.want || best.loss >= lossAllowed {
			t.Errorf("%s: carried %v with loss %v, want %v", c.name, best.carried, best.loss, c.want)
		}
	}
}

// A generator that the machine keeps from its work must not make a slow path.
func TestSearchWaitsForTheGenerator(t *testing.T) {
	t.Parallel()
	p := pipe{capacity: 1e6, generator: 1e7}
	tries := 0
	best, err := search(0.98e6, func(rate float64) (trial, error) {
		if tries++; tries%3 != 0 {
			return trial{offered: 1000, carried: 1000}, nil
		}
		return p.try(rate)
	})
	if err != nil || best.carried < 0.95e6 {
		t.Errorf("carried %v, %v", best.carried, err)
	}
	slower := 1e6
	_, err = search(0, func(float64) (trial, error) {
		slower /= 2
		return trial{offered: slower, carried: slower}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "too busy") {
		t.Errorf("a generator that gets slower and slower: %v", err)
	}
}

func TestSearchSaysThatNothingIsCarried(t *testing.T) {
	t.Parallel()
	_, err := search(1000, func(rate float64) (trial, error) { return trial{offered: rate, loss: 1}, nil })
	if err == nil {
		t.Error("a path that loses everything has a rate")
	}
}
