package legacy

import (
	"flag"
	"os"
	"strings"
	"testing"

	"coati/policy/config"
)

var update = flag.Bool("update", false, "write the tables of docs")

// holdTable compares a table of docs with rows.
func holdTable(t *testing.T, file string, rows []row) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "|---|---|---|---|\n")
	text, _, _ = strings.Cut(text, "\n\n")
	if strings.TrimSpace(text) != strings.TrimSpace(markdown(rows)) {
		if *update {
			if err := os.WriteFile(file, []byte(strings.Replace(string(b), strings.TrimSpace(text), strings.TrimSpace(markdown(rows)), 1)), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("the table of %s is not that of the code: run the test with -update", file)
	}
}

func TestRacoonTableIsDocumented(t *testing.T) {
	t.Parallel()
	holdTable(t, "../../docs/racoon.conf.md", racoonRows)
}

// racoonSamples are the directives that say something, by section and name; others have a number.
var racoonSamples = map[string]string{
	"file/include": `include "/f";`, "file/path": `path include "/x";`, "file/remote": "remote anonymous { " + aProposal + " }",
	"file/sainfo": "sainfo anonymous { " + anEncryption + anAuthentication + " }", "file/log": "log info;",
	"path/include": `"/x"`, "timer/natt_keepalive": "natt_keepalive 20 sec;", "listen/isakmp": "isakmp 192.0.2.1 [500];",
	"listen/isakmp_natt": "isakmp_natt 192.0.2.1 [4500];", "listen/strict_address": "strict_address;",
	"remote/remote_address": "remote_address 192.0.2.1;", "remote/exchange_mode": "exchange_mode main;", "remote/proposal_check": "proposal_check obey;", "remote/doi": "doi ipsec_doi;",
	"remote/situation": "situation identity_only;", "remote/my_identifier": `my_identifier fqdn "a";`, "remote/peers_identifier": `peers_identifier asn1dn "CN=a";`,
	"remote/verify_identifier": "verify_identifier on;", "remote/certificate_type": `certificate_type x509 "c" "k";`, "remote/ca_type": `ca_type x509 "c";`,
	"remote/peers_certfile": `peers_certfile x509 "p";`, "remote/mode_cfg": "mode_cfg off;", "remote/send_cert": "send_cert on;", "remote/send_cr": "send_cr on;",
	"remote/verify_cert": "verify_cert on;", "remote/lifetime": "lifetime time 1 hour;", "remote/initial_contact": "initial_contact on;",
	"remote/passive": "passive on;", "remote/generate_policy": "generate_policy off;", "remote/nat_traversal": "nat_traversal on;", "remote/rekey": "rekey on;",
	"remote/proposal": aProposal, "remote/dh_group": "dh_group 2;", "proposal/encryption_algorithm": "encryption_algorithm aes 256;",
	"proposal/hash_algorithm": "hash_algorithm sha1;", "proposal/authentication_method": "authentication_method rsasig;", "proposal/dh_group": "dh_group modp1024;",
	"proposal/lifetime": "lifetime time 2 min;", "sainfo/pfs_group": "pfs_group 1;", "sainfo/lifetime": "lifetime byte 100 MB;",
	"sainfo/encryption_algorithm": anEncryption, "sainfo/authentication_algorithm": anAuthentication, "sainfo/compression_algorithm": "compression_algorithm deflate;",
}

const (
	aProposal        = "proposal { encryption_algorithm aes; hash_algorithm sha1; authentication_method pre_shared_key; dh_group 2; }"
	anEncryption     = "encryption_algorithm aes 128, des;"
	anAuthentication = "authentication_algorithm hmac_sha1;"
)

// What the table says of a directive is what the reader does: silence, a word of loss, or a fault, with the note.
func TestRacoonTableIsTrue(t *testing.T) {
	t.Parallel()
	for _, r := range racoonRows {
		if r.section == "psk.txt" {
			continue
		}
		text, ok := racoonSamples[r.section+"/"+r.name]
		if !ok {
			text = r.name + " 5;"
		}
		if strings.HasPrefix(r.note, "see ") && !ok {
			text = r.name + " { }"
		}
		switch r.section {
		case "file":
		case "path":
			text = "path " + r.name + ` "/x";`
		case "remote":
			if r.name != "proposal" {
				text += aProposal
			}
			text = "remote anonymous { " + text + " }"
		case "proposal":
			more := strings.NewReplacer("proposal { ", "", " }", "").Replace(aProposal)
			text = "remote anonymous { proposal { " + more + text + " } }"
		case "sainfo":
			text = "sainfo anonymous { " + anEncryption + anAuthentication + text + " }"
		default:
			text = r.section + " { " + text + " }"
		}
		_, faults := ParseRacoon("r", []byte(text), aDisk(map[string]string{"/f": ""}))
		want := map[status]int{supported: 0, lost: 1, refused: 1}[r.status]
		if len(faults) != want {
			t.Errorf("%s %s: %q: %v", r.section, r.name, text, faults)
			continue
		}
		if want == 1 && (!strings.Contains(faults[0].Message, r.note) || (faults[0].Severity == config.Lost) != (r.status == lost)) {
			t.Errorf("%s %s: %v", r.section, r.name, faults)
		}
	}
}

// Every directive that the table calls supported is read by somebody, and nobody reads another.
func TestRacoonHandlersAndTableAgree(t *testing.T) {
	t.Parallel()
	for _, r := range racoonRows {
		handled := racoonHandlers[r.section][r.name] != nil
		if elsewhere := r.section == "path" || r.section == "psk.txt" || r.name == "include"; !elsewhere && handled != (r.status == supported) {
			t.Errorf("%s %s is %s, and has a handler: %v", r.section, r.name, r.status, handled)
		}
	}
	for section, handlers := range racoonHandlers {
		for name := range handlers {
			if findRow(racoonRows, section, name) == nil {
				t.Errorf("%s %s has a handler and no row", section, name)
			}
		}
	}
}
