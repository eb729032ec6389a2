package legacy

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"coati/policy"
)

func readManual(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/coati-setkey.8")
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(`\-`, "-", `\fB`, "", `\fI`, "", `\fR`, "").Replace(string(b))
}

func TestEveryExampleOfTheManualIsAScript(t *testing.T) {
	t.Parallel()
	examples := regexp.MustCompile(`(?s)\n\.EX\n(.*?)\n\.EE\n`).FindAllStringSubmatch(readManual(t), -1)
	if len(examples) == 0 {
		t.Fatal("no example found")
	}
	for _, e := range examples {
		s, faults := ParseSetkey("manual", []byte(e[1]))
		if faults == nil {
			_, faults = (*Database)(nil).Evaluate(s, World{})
		}
		if faults != nil {
			t.Errorf("%v\n%s", faults, e[1])
		}
	}
}

// The manual names every verb and option, and exactly the algorithms there are.
func TestManualDescribesTheLanguage(t *testing.T) {
	t.Parallel()
	text := readManual(t)
	for _, v := range verbNames {
		if !strings.Contains(text, "\n"+v+" ") && !strings.Contains(text, "\n"+v+";") && !strings.Contains(text, " "+v+";") {
			t.Errorf("no %s", v)
		}
	}
	_, part, _ := strings.Cut(text, ".SS Algorithms")
	part, _, _ = strings.Cut(part, ".SS ")
	enc, integ, _ := strings.Cut(part, "\n.B -A\n")
	name := regexp.MustCompile(`(?m)^\.BR? ([a-z0-9]+(?:-[a-z0-9]+)*)`)
	for _, c := range []struct {
		table []algorithm
		text  string
	}{{encryptions, enc}, {integrities, integ}} {
		var told, there []string
		for _, m := range name.FindAllStringSubmatch(c.text, -1) {
			if !slices.Contains(told, m[1]) {
				told = append(told, m[1])
			}
		}
		for i := range c.table {
			if len(c.table[i].rows()) == 0 {
				t.Errorf("%v has no row in policy's table", c.table[i].names)
			}
			there = append(there, c.table[i].names[0])
		}
		slices.Sort(told)
		slices.Sort(there)
		if !slices.Equal(told, there) {
			t.Errorf("the manual names %v, there are %v", told, there)
		}
	}
}

// Every algorithm that esp has can be asked for, but for those that need a negotiation or are a form of another.
func TestEveryAlgorithmHasAName(t *testing.T) {
	t.Parallel()
	for i := range policy.Algorithms {
		a := &policy.Algorithms[i]
		table := encryptions
		switch {
		case a.Use&policy.UseESP == 0, strings.Contains(a.Keyword, "iiv"): // an implicit IV needs no name of setkey's
			continue
		case a.Type == policy.TransformINTEG:
			table = integrities
		case a.Type != policy.TransformENCR:
			continue
		}
		if n := algorithmName(table, a.Transform()); n == a.Transform().String() && n != "null" {
			t.Errorf("%s has no name", a.Keyword)
		}
	}
}
