package lab

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain removes what dead runs left, and prints the table when all tests have ended. As root
// and without a -run filter, a declared cell that no test filled fails the run.
func TestMain(m *testing.M) {
	flag.Parse()
	root := os.Geteuid() == 0
	if root {
		RemoveStale()
	}
	code := m.Run()
	if InKernel() {
		if err := results.WriteCells(); err != nil {
			fmt.Println("FAIL:", err)
			code = max(code, 1)
		}
		os.Exit(code)
	}
	if root {
		whole := flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == "" && !testing.Short()
		empty := results.Empty()
		if whole || len(empty) < len(declared()) {
			fmt.Println(results.Render())
		}
		if whole && len(empty) > 0 && flag.Lookup("test.list").Value.String() == "" {
			fmt.Printf("FAIL: %d cells of the table are empty\n", len(empty))
			code = max(code, 1)
		}
	} else {
		fmt.Println("lab: not root, so no interop tests were run")
	}
	os.Exit(code)
}
