package wire

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

// TestNumbersHaveTheNamesOfTheirConstants reads the constants from the source, so that none is forgotten in a table of
// names, misspelled or listed under another's number.
func TestNumbersHaveTheNamesOfTheirConstants(t *testing.T) {
	t.Parallel()
	names := map[string]func(uint64) string{
		"PayloadType":         func(v uint64) string { return PayloadType(v).String() },
		"ExchangeType":        func(v uint64) string { return ExchangeType(v).String() },
		"NotifyType":          func(v uint64) string { return NotifyType(v).String() },
		"ProtocolID":          func(v uint64) string { return ProtocolID(v).String() },
		"TransformType":       func(v uint64) string { return TransformType(v).String() },
		"IDType":              func(v uint64) string { return IDType(v).String() },
		"CertEncoding":        func(v uint64) string { return CertEncoding(v).String() },
		"AuthMethod":          func(v uint64) string { return AuthMethod(v).String() },
		"TSType":              func(v uint64) string { return TSType(v).String() },
		"ConfigType":          func(v uint64) string { return ConfigType(v).String() },
		"ConfigAttributeType": func(v uint64) string { return ConfigAttributeType(v).String() },
	}
	// Types whose Go names are the registry's words; the others have shorter ones.
	prefix := map[string]string{
		"ExchangeType": "Exchange", "NotifyType": "Notify", "TransformType": "Transform", "TSType": "", "IDType": "",
		"ConfigAttributeType": "Config", "ProtocolID": "Protocol",
	}
	seen := make(map[string]int)
	for _, file := range []string{"numbers.go", "v2_numbers.go", "v2_notify_numbers.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				spec := s.(*ast.ValueSpec)
				kind := spec.Type.(*ast.Ident).Name
				goName := spec.Names[0].Name
				v, err := strconv.ParseUint(spec.Values[0].(*ast.BasicLit).Value, 0, 16)
				if err != nil {
					t.Fatal(err)
				}
				seen[kind]++
				got := names[kind](v)
				if strings.HasPrefix(got, "UNKNOWN") {
					t.Errorf("%s has no name", goName)
				}
				p, comparable := prefix[kind]
				plain := strings.ReplaceAll(got, "_", "")
				if comparable && !strings.EqualFold(strings.TrimPrefix(goName, p), plain) {
					t.Errorf("%s is called %s", goName, got)
				}
			}
		}
	}
	for kind := range names {
		if seen[kind] == 0 {
			t.Errorf("no constants of %s found", kind)
		}
	}
	if got := NotifyType(12345).String(); got != "UNKNOWN(12345)" {
		t.Errorf("a number nobody knows is called %s", got)
	}
}

func TestErrorTypesEndAt16383(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		n    NotifyType
		want bool
	}{{NotifyInvalidSyntax, true}, {16383, true}, {NotifyInitialContact, false}, {65535, false}} {
		if got := tc.n.IsError(); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.n, got, tc.want)
		}
	}
}
