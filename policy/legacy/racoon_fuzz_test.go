package legacy

import (
	"strings"
	"testing"

	"coati/policy/config"
)

// readable says whether faults can be shown to people.
func readable(t *testing.T, faults []config.Fault) {
	t.Helper()
	if len(faults) > 3*(maxFaults+1)+1000 {
		t.Errorf("%d faults", len(faults))
	}
	for _, x := range faults {
		if len(x.Message) > 1200 || strings.ContainsAny(x.Message, "\n\x00\x1b") {
			t.Errorf("a fault people cannot read: %q", x.Message)
		}
	}
}

// Whatever the files hold, reading them ends; what comes of them is a native file, or a fault says why not.
func FuzzRacoon(f *testing.F) {
	f.Add(racoonMain, racoonPolicies, "192.0.2.2 k")
	f.Add(`include "/etc/psk.txt"; remote "x" { remote_address 192.0.2.2 [500]; `+aProposal+`} sainfo anonymous{`+anEncryption+anAuthentication+`}`, racoonPolicies, `include "/etc/psk.txt";`)
	f.Add("listen { isakmp ::1 [501]; } log debug2; timer { natt_keepalive 0 sec; }", "", "* 0x00")
	f.Add("remote anonymous { my_identifier keyid file \"psk.txt\"; exchange_mode aggressive, main; certificate_type x509 \"c\" \"k\"; peers_certfile \"p\"; proposal { encryption_algorithm 3des; hash_algorithm md5; authentication_method rsasig; dh_group 1; } }"+
		"sainfo subnet fd00::/8[any] any address fd00::1[80] tcp { encryption_algorithm blowfish 448; authentication_algorithm hmac_md5; lifetime byte 5 KB; }", "spdadd fd00::2 fd00::1[80] tcp -P out ipsec esp/transport//use;", "\x00")
	f.Add("}{{;\"\x00", "spdadd 0.0.0.0/0 0.0.0.0/0 any -P out none;", "\n\n#")
	f.Fuzz(func(t *testing.T, conf, script, psk string) {
		LooksLikeRacoon([]byte(conf))
		disk := aDisk(map[string]string{"/etc/psk.txt": psk})
		r, faults := ParseRacoon("/etc/racoon.conf", []byte(conf), disk)
		readable(t, faults)
		if (r == nil) != config.Failed(faults) {
			t.Fatalf("a configuration and faults, or neither: %v", faults)
		}
		s, _ := ParseSetkey("s", []byte(script))
		if r == nil || s == nil {
			return
		}
		db, _ := (*Database)(nil).Evaluate(s, World{})
		c, faults := r.Convert(db, disk)
		readable(t, faults)
		if (c == nil) != config.Failed(faults) {
			t.Fatalf("a file and faults, or neither: %v", faults)
		}
		if c == nil {
			return
		}
		if n := strings.Count(string(c.Text), "\n"); n != len(c.Origin) {
			t.Fatalf("%d lines have %d places", n, len(c.Origin))
		}
		if strings.Contains(string(c.Text), "-file = \"/") { // the fuzzer is not to open devices
			return
		}
		cfg, faults := config.LoadWith(nil, []config.Foreign{c.Foreign})
		readable(t, faults)
		if (cfg == nil) != config.Failed(faults) {
			t.Fatalf("a configuration and faults, or neither: %v", faults)
		}
		for _, f := range faults {
			if strings.Contains(f.Message, "TOML") || strings.Contains(f.Message, "unknown key") {
				t.Errorf("what was written cannot be read: %v\n%s", f, c.Text)
			}
		}
		if c.Script != nil {
			if _, faults := (*Database)(nil).Evaluate(c.Script, World{}); faults != nil {
				t.Errorf("what is left of the script cannot be performed: %v", faults)
			}
		}
	})
}

// Whatever ipsec.conf and ipsec.secrets hold, reading them ends; what comes of them is a native file, or a fault says why not.
func FuzzIPsec(f *testing.F) {
	f.Add(plutoConf, plutoSecrets)
	f.Add("conn %default\n keyexchange=ikev1\nconn a\n left=%defaultroute\n right=b.example\n also=x\n auto=route\n dpdaction=restart\n esp=aes_gcm256-dh19!\nconn x\n rightsubnets={10.0.0.0/8 fd00::/8}\n leftprotoport=17/1701\n", "@a %any : PSK 0x01\ninclude /etc/ipsec.secrets\n")
	f.Add("include /etc/ipsec.c*\nca c\n cacert=x\nconfig setup\n ikeport=501\n uniqueids=never\n keep_alive=1m\n", ": RSA { a\n }\n2001:db8:: : PSK \"\n")
	f.Add("conn a\n left=192.0.2.1\n right=%any\n authby=rsasig\n leftcert=c\n rightcert=d\n auto=add\n rightid=C=CH\n", ": ECDSA k.pem\n")
	f.Add("\x00=\"\n =\n=", "::\x00")
	f.Fuzz(func(t *testing.T, conf, secrets string) {
		LooksLikeIPsec([]byte(conf))
		LooksLikeSecrets([]byte(secrets))
		disk := aDisk(map[string]string{"/etc/ipsec.conf": conf, "/etc/ipsec.secrets": secrets})
		r, faults := ParseIPsec("/etc/ipsec.conf", []byte(conf), nil, disk)
		readable(t, faults)
		if (r == nil) != config.Failed(faults) {
			t.Fatalf("a configuration and faults, or neither: %v", faults)
		}
		if r == nil {
			return
		}
		c, faults := r.Convert(atHome("192.0.2.1"), disk)
		readable(t, faults)
		if (c == nil) != config.Failed(faults) {
			t.Fatalf("a file and faults, or neither: %v", faults)
		}
		if c == nil {
			return
		}
		if n := strings.Count(string(c.Text), "\n"); n != len(c.Origin) {
			t.Fatalf("%d lines have %d places", n, len(c.Origin))
		}
		if strings.Contains(string(c.Text), "-file = \"/") { // the fuzzer is not to open devices
			return
		}
		cfg, faults := config.LoadWith(nil, []config.Foreign{c.Foreign})
		readable(t, faults)
		if (cfg == nil) != config.Failed(faults) {
			t.Fatalf("a configuration and faults, or neither: %v", faults)
		}
		for _, f := range faults {
			if strings.Contains(f.Message, "TOML") || strings.Contains(f.Message, "unknown key") {
				t.Errorf("what was written cannot be read: %v\n%s", f, c.Text)
			}
		}
	})
}
