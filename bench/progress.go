package bench

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const barWidth = 24

// Progress tells a person how far a run is: a bar that is drawn anew on a terminal, else a line for each step.
type Progress struct {
	W        io.Writer
	Terminal bool

	name        string
	done, total int
	began       time.Time
}

func (p *Progress) say(format string, args ...any) {
	p.line(fmt.Sprintf(format, args...))
}

func (p *Progress) line(text string) {
	if p.Terminal {
		text = "\r\033[K" + text
	}
	fmt.Fprintln(p.W, text)
}

func (p *Progress) begin(name string, total int) {
	p.name, p.done, p.total, p.began = name, 0, total, time.Now()
}

// step counts one more step; an empty text says nothing of it.
func (p *Progress) step(text string) {
	p.done++
	if text != "" {
		p.line(fmt.Sprintf("%s %3d/%d  %s", p.name, p.done, p.total, text))
	}
	if p.Terminal {
		full := barWidth * p.done / max(p.total, 1)
		left := time.Duration(float64(time.Since(p.began)) / float64(p.done) * float64(p.total-p.done))
		fmt.Fprintf(p.W, "\r\033[K%s [%s%s] %d/%d, %v left", p.name, strings.Repeat("#", full), strings.Repeat("-", barWidth-full), p.done, p.total, left.Round(time.Second))
	}
}

func (p *Progress) end() {
	if p.Terminal {
		fmt.Fprint(p.W, "\r\033[K")
	}
}
