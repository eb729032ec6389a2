package lab

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// A Cell of the table: who is at the other end, what Coati's role is, and what is tried.
type Cell struct{ Peer, Role, Case string }

func (c Cell) String() string { return c.Peer + "/" + c.Role + "/" + c.Case }

// A Table has a cell for everything that is to be tried, declared before anything is.
type Table struct {
	mu       sync.Mutex
	declared []Cell
	result   map[Cell]string
}

// skipped is the outcome that counts as none.
const skipped = "skipped"

// NewTable returns a table of empty cells.
func NewTable(cells ...Cell) *Table {
	return &Table{declared: cells, result: map[Cell]string{}}
}

// Fill says that this test tries the cell; its outcome is noted when the test ends. A cell that
// was not declared fails the test. Of several tests of one cell, a failure stays, else a skip.
func (tb *Table) Fill(t testing.TB, peer, role, what string) {
	t.Helper()
	cell := Cell{peer, role, what}
	if !slices.Contains(tb.declared, cell) {
		t.Fatalf("the table has no cell %s: declare it", cell)
	}
	start := time.Now()
	t.Cleanup(func() {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		switch {
		case t.Failed():
			tb.result[cell] = "FAIL"
		case tb.result[cell] == "FAIL":
		case t.Skipped():
			tb.result[cell] = skipped
		case tb.result[cell] != skipped:
			tb.result[cell] = fmt.Sprintf("ok %.1fs", time.Since(start).Seconds())
		}
	})
}

// Empty lists the declared cells without an outcome.
func (tb *Table) Empty() []Cell {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var empty []Cell
	for _, cell := range tb.declared {
		if tb.result[cell] == "" || tb.result[cell] == skipped {
			empty = append(empty, cell)
		}
	}
	return empty
}

// Render draws the table: a column for each peer and role, a row for each case. A dash is a cell
// that was never declared.
func (tb *Table) Render() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var columns, rows []string
	for _, cell := range tb.declared {
		if column := cell.Peer + "\n" + cell.Role; !slices.Contains(columns, column) {
			columns = append(columns, column)
		}
		if !slices.Contains(rows, cell.Case) {
			rows = append(rows, cell.Case)
		}
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	peers, roles := []string{"case"}, []string{""}
	for _, column := range columns {
		peer, role, _ := strings.Cut(column, "\n")
		peers, roles = append(peers, peer), append(roles, role)
	}
	fmt.Fprintln(w, strings.Join(peers, "\t"))
	fmt.Fprintln(w, strings.Join(roles, "\t"))
	for _, what := range rows {
		row := []string{what}
		for i := range columns {
			cell := Cell{peers[i+1], roles[i+1], what}
			outcome := tb.result[cell]
			switch {
			case !slices.Contains(tb.declared, cell):
				outcome = "-"
			case outcome == "":
				outcome = "EMPTY"
			}
			row = append(row, outcome)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return text.String()
}
