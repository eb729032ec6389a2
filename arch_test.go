package coati_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layer is one row of the house's table: which of our packages, and which modules of others, a package may import.
// packet may be imported by all; the standard library may be, but for what pure packages are refused below.
type layer struct {
	pkg    string // a trailing /** covers the folder and all below it
	ours   []string
	theirs []string // module path prefixes
	why    string
}

var house = []layer{
	{"packet", nil, []string{"golang.org/x/sys"}, "packet is a leaf: views of octets that everybody may use"},
	{"policy", nil, nil, "policy names things; it knows nobody"},
	{"policy/config", []string{"policy"}, []string{"github.com/pelletier/go-toml"}, "a file becomes policy's nouns and nothing else"},
	{"policy/legacy", []string{"policy", "policy/config"}, nil, "other people's files become policy's nouns and nothing else"},
	{"policy/planetest", []string{"policy"}, nil, "one conformance suite for every plane, so it knows none of them"},
	{"esp/batch/camellia", nil, nil, "one block cipher, which ESP and IKEv1 share"},
	{"esp/batch", []string{"esp/batch/camellia"}, []string{"golang.org/x/sys/cpu", "golang.org/x/crypto"}, "jobs times keys, no words of a protocol"},
	{"esp", []string{"policy", "esp/batch"}, nil, "esp moves packets and decides nothing; tun is joined to it by gateway"},
	{"ike/wire", nil, nil, "octets to structs, nothing else"},
	{"ike/keys", []string{"policy", "esp/batch/camellia"}, []string{"filippo.io/bigmod", "golang.org/x/crypto", "github.com/cloudflare/circl/kem/mlkem"}, "keyed arithmetic"},
	{"ike/auth", []string{"policy", "ike/wire", "ike/keys"}, nil, "who somebody is"},
	{"ike/eap", []string{"policy"}, []string{"golang.org/x/crypto/md4"}, "a packet in, a packet out: it knows no IKE"},
	{"ike/eap/radius", []string{"policy"}, nil, "octets to structs and back; gateway sends them"},
	{"ike", []string{"policy", "ike/wire"}, nil, "the contract knows no version of IKE"},
	{"ike/v2", []string{"policy", "ike", "ike/wire", "ike/keys", "ike/auth", "ike/eap"}, nil, "a machine decides; it touches nothing"},
	{"ike/v1", []string{"policy", "ike", "ike/wire", "ike/keys", "ike/auth"}, nil, "a machine decides; it touches nothing"},
	{"ike/sim", []string{"policy", "ike/**"}, nil, "simulated ends share nothing but datagrams"},
	{"tun", nil, []string{"golang.org/x/sys", "golang.org/x/net", "golang.zx2c4.com/wireguard", "github.com/vishvananda/netlink", "github.com/vishvananda/netns", "github.com/google/nftables", "github.com/mdlayher/netlink"}, "tun touches the machine and knows no IPsec"},
	{"tun/xfrm", []string{"policy"}, []string{"golang.org/x/sys"}, "the kernel as a plane: it is told what policy names, and decides nothing"},
	{"gateway/control", []string{"policy"}, nil, "the contract between the daemon and its commands"},
	{"gateway", []string{"policy/**", "esp/**", "ike/**", "tun", "tun/xfrm", "gateway/control"}, []string{"golang.org/x/sys"}, "gateway connects everybody but the command line"},
	{"bench", []string{"policy/**", "esp/**", "ike/**", "tun", "gateway/**", "lab"}, []string{"golang.zx2c4.com/wireguard", "golang.org/x/sys", "golang.org/x/crypto", "github.com/vishvananda/netlink", "github.com/jedib0t/go-pretty", "gonum.org/v1/plot"}, "bench measures the parts and the whole, and is no part of either"},
	{"cmd/**", []string{"gateway/**", "policy/**", "bench"}, []string{"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/jedib0t/go-pretty", "golang.org/x/sys", "golang.org/x/term"}, "cmd speaks to people; the gateway does the work"},
	{"lab/**", []string{"**"}, []string{""}, "the laboratory may use anything"},
}

// pure packages take time as an argument, randomness by injection, and give I/O back as data.
var pure = []string{"ike", "ike/v1", "ike/v2", "ike/keys", "ike/auth", "ike/eap", "ike/eap/radius", "ike/wire", "ike/sim"}

// excepted names what a pure package may do all the same.
var excepted = map[string]string{
	"ike/eap/tunnel.go net":    "crypto/tls wants a net.Conn; this one is two buffers",
	"ike/sim/plane.go channel": "the simulated plane implements policy.Plane, whose Events is a channel; it is nil",
}

// refused lists what must not be reached, and why.
var refused = map[string]string{
	"net": "I/O is a return value", "os": "the machine is behind interfaces", "sync": "one goroutine owns a machine", "sync/atomic": "one goroutine owns a machine",
	"syscall": "the machine is behind interfaces", "crypto/rand": "randomness is injected", "context": "nothing here waits",
}

func TestArch(t *testing.T) {
	files := goFiles(t)
	if len(files) < 20 {
		t.Fatalf("only %d files found: the test looks in the wrong place", len(files))
	}
	seen := map[string]bool{}
	for _, f := range files {
		pkg := filepath.ToSlash(filepath.Dir(f.path))
		l := layerOf(pkg)
		if l == nil {
			t.Errorf("%s: package %s has no row in the house's table: decide who it may know", f.path, pkg)
			continue
		}
		seen[l.pkg] = true
		for _, imp := range f.imports {
			checkImport(t, f.path, pkg, l, imp)
		}
		if slices.Contains(pure, pkg) {
			checkPure(t, f)
		}
	}
	for _, l := range house {
		if !seen[l.pkg] {
			t.Errorf("the table has a row for %s, which does not exist", l.pkg)
		}
	}
}

func TestArchNoPackageIsADrawer(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, part := range strings.Split(filepath.ToSlash(strings.TrimSuffix(f.path, ".go")), "/") {
			if slices.Contains([]string{"util", "utils", "common", "helpers", "types", "manager", "misc"}, part) {
				t.Errorf("%s: a name says what is inside; %q says nothing", f.path, part)
			}
		}
	}
}

type goFile struct {
	path    string
	imports []string
	ast     *ast.File
	set     *token.FileSet
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var out []goFile
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); d.IsDir() && path != "." && err == nil {
			return fs.SkipDir // a module of its own: it writes code of ours, and is no part of it
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		a, err := parser.ParseFile(set, path, src, parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		f := goFile{path: path, ast: a, set: set}
		for _, s := range a.Imports {
			p, _ := strconv.Unquote(s.Path.Value)
			f.imports = append(f.imports, p)
		}
		out = append(out, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func covers(pattern, pkg string) bool {
	if base, ok := strings.CutSuffix(pattern, "**"); ok {
		base = strings.TrimSuffix(base, "/")
		return base == "" || pkg == base || strings.HasPrefix(pkg, base+"/")
	}
	return pattern == pkg
}

func layerOf(pkg string) *layer {
	for i := range house {
		if covers(house[i].pkg, pkg) {
			return &house[i]
		}
	}
	return nil
}

func checkImport(t *testing.T, path, pkg string, l *layer, imp string) {
	t.Helper()
	if ours, ok := strings.CutPrefix(imp, "coati/"); ok {
		if ours == "packet" || slices.ContainsFunc(l.ours, func(p string) bool { return covers(p, ours) }) || covers(l.pkg, ours) {
			return
		}
		t.Errorf("%s imports %s; %s may not: %s", path, ours, pkg, l.why)
		return
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		return
	}
	if !slices.ContainsFunc(l.theirs, func(p string) bool { return p == "" || imp == p || strings.HasPrefix(imp, p+"/") }) {
		t.Errorf("%s imports %s; %s may not: %s", path, imp, pkg, l.why)
	}
}

func checkPure(t *testing.T, f goFile) {
	t.Helper()
	for _, imp := range f.imports {
		if why := refused[imp]; why != "" && excepted[filepath.ToSlash(f.path)+" "+imp] == "" {
			t.Errorf("%s imports %s below ike: %s", f.path, imp, why)
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		at := func() token.Position { return f.set.Position(n.Pos()) }
		switch n := n.(type) {
		case *ast.GoStmt:
			t.Errorf("%s: a goroutine below ike: slow work is a Job", at())
		case *ast.ChanType:
			if excepted[filepath.ToSlash(f.path)+" channel"] != "" {
				return true
			}
			t.Errorf("%s: a channel below ike: events come in, an Out goes back", at())
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Since", "Until", "Tick"}, n.Sel.Name) {
				t.Errorf("%s: time.%s below ike: time is an argument", at(), n.Sel.Name)
			}
		}
		return true
	})
}
