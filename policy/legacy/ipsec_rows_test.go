package legacy

import (
	"strings"
	"testing"

	"coati/policy/config"
)

func TestIPsecTableIsDocumented(t *testing.T) {
	t.Parallel()
	holdTable(t, "../../docs/ipsec.conf.md", ipsecRows)
}

// ipsecSamples are values with which a supported parameter says nothing of loss.
var ipsecSamples = map[string]string{
	"also": "other", "auto": "add", "type": "transport", "authby": "secret", "leftauth": "psk", "keyexchange": "ikev2", "ikev2": "insist", "ike": "aes128-sha256-modp2048", "esp": "aes128-sha256",
	"phase2alg": "aes128-sha256;modp2048", "phase2": "esp", "pfs": "no", "pfsgroup": "modp2048", "left": "192.0.2.1", "leftid": "@a", "leftsubnet": "10.1.0.0/16", "leftsubnets": "{10.1.0.0/16}",
	"leftprotoport": "udp/1701", "leftcert": "", "leftrsasigkey": "%cert", "connaddrfamily": "ipv4", "hostaddrfamily": "ipv4", "clientaddrfamily": "ipv4", "rekey": "yes", "reauth": "no",
	"dpddelay": "30", "dpdaction": "clear", "closeaction": "restart", "forceencaps": "yes", "encapsulation": "auto", "replay_window": "64", "replay-window": "64", "sha2-truncbug": "yes", "sha2_truncbug": "yes",
	"aggressive": "no", "aggrmode": "no", "compress": "no", "esn": "no", "eap_identity": "%any", "leftxauthclient": "no", "leftxauthserver": "no", "leftmodecfgclient": "no", "leftmodecfgserver": "no",
	"lifebytes": "1000000", "ipsec-max-bytes": "1000000", "lifepackets": "100000", "ipsec-max-packets": "100000", "uniqueids": "yes", "nat_traversal": "yes", "ikeport": "501", "nat-ikeport": "4501", "nat_ikeport": "4501",
}

// What the table says of a parameter is what the reader does: silence, a word of loss, or a fault, with the note.
func TestIPsecTableIsTrue(t *testing.T) {
	t.Parallel()
	for _, r := range ipsecRows {
		value, ok := ipsecSamples[r.name]
		if !ok {
			value = "60"
		}
		conn := map[string]string{"left": "192.0.2.1", "right": "192.0.2.2", "authby": "secret", "auto": "add", "keyexchange": "ikev2"}
		extra, secrets := "conn other\n", ": PSK 'x'\n"
		switch r.section {
		case "file":
			continue
		case "conn":
			conn[r.name] = value
		case "config setup":
			extra += "config setup\n " + r.name + "=" + value + "\n"
		case "ca":
			extra += "ca c\n " + r.name + "=" + map[bool]string{true: "x", false: value}[r.name != "also"] + "\n"
			if r.name == "also" {
				extra = "conn other\nca other\nca c\n also=other\n"
			}
		case "ipsec.secrets":
			secrets += "u : " + r.name + " 'x'\n"
			if r.name == "include" {
				secrets = ": PSK 'x'\ninclude /none/*\n"
			}
		}
		text := extra + "conn c\n"
		for k, v := range conn {
			text += " " + k + "=" + v + "\n"
		}
		_, cfg, faults := ipsecConverted(text, secrets, atHome("192.0.2.1"))
		want := map[status]int{supported: 0, lost: 1, refused: 1}[r.status]
		if len(faults) != want || (cfg == nil) != (r.status == refused) {
			t.Errorf("%s %s: %v\n%s", r.section, r.name, faults, text)
			continue
		}
		if want == 1 && (!strings.Contains(faults[0].Message, r.note) || (faults[0].Severity == config.Lost) != (r.status == lost)) {
			t.Errorf("%s %s: %v", r.section, r.name, faults)
		}
	}
}

// Every parameter has one row, and whoever reads one reads what the table calls supported.
func TestIPsecTableHasEachOnce(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range ipsecRows {
		if seen[r.section+" "+r.name] {
			t.Errorf("%s %s has two rows", r.section, r.name)
		}
		seen[r.section+" "+r.name] = true
	}
	for name := range connHandlers {
		if r := findRow(ipsecRows, "conn", name); r == nil || r.status != supported {
			t.Errorf("%s has a handler and is not supported", name)
		}
	}
	for name := range saysNothing {
		if findRow(ipsecRows, "conn", name) == nil && findRow(ipsecRows, "config setup", name) == nil {
			t.Errorf("%s is in no table", name)
		}
	}
	for _, name := range plutoWords {
		if rowOf(name) == nil && findRow(ipsecRows, "config setup", name) == nil {
			t.Errorf("%s is in no table", name)
		}
	}
	for kind, what := range secretKinds {
		if r := findRow(ipsecRows, "ipsec.secrets", kind); r == nil || (what == "read") != (r.status == supported) || what != "read" && what != r.note {
			t.Errorf("%s: the table says otherwise", kind)
		}
	}
}
