//! Where a setting comes from, which one wins, and what a wrong one is called.

use std::path::PathBuf;

use clap::CommandFactory;

use super::*;

/// A server with a setting of each sort.
#[derive(clap::Parser)]
#[command(name = "planted", version)]
struct PlantedSettings {
    #[command(flatten)]
    node: NodeSettings,
    #[command(flatten)]
    process: ProcessSettings,
    /// How long nobody minds.
    #[arg(long = "patience-ms", value_name = "MS", default_value = "50", value_parser = millis(10..=1000))]
    patience: std::time::Duration,
    /// What nobody is shown.
    #[arg(long, value_name = "WORDS")]
    password: Option<String>,
    /// Whom to ask.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', value_parser = host_port)]
    friends: Vec<String>,
    /// Whether all is well.
    #[arg(long)]
    relaxed: bool,
}

impl ServerSettings for PlantedSettings {
    const SECRETS: &'static [&'static str] = &["password"];
    type Checked = PlantedSettings;

    fn process(&mut self) -> &mut ProcessSettings {
        &mut self.process
    }

    fn check(self, _: &dyn Fn(&str) -> Option<String>) -> Result<PlantedSettings, SettingError> {
        self.node.check()?;
        let known = |url: &str, _: &str| if url.starts_with("http") { Ok(()) } else { Err("expected a URL") };
        self.process.check(known)?;
        if self.password.as_deref().is_some_and(|p| p.contains(' ')) {
            return Err(SettingError::invalid("--password", "...", "expected one word"));
        }
        Ok(self)
    }
}

const GOOD: [&str; 10] = [
    "--id",
    "7",
    "--data-dir",
    "/tmp/d",
    "--listen-pg",
    "127.0.0.1:0",
    "--listen-http",
    "127.0.0.1:0",
    "--broker",
    "http://127.0.0.1:2379",
];

/// Settings of these flags and variables, and of a file with this text.
fn given(flags: &[&str], variables: &[(&str, &str)], text: Option<&str>) -> Result<PlantedSettings, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut words: Vec<String> = flags.iter().map(|s| (*s).to_owned()).collect();
    if let Some(text) = text {
        let path = dir.path().join("planted.toml");
        std::fs::write(&path, text).expect("written");
        words.extend(["--config".to_owned(), path.display().to_string()]);
    }
    let environment = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
    read::<PlantedSettings, _>(&words, &environment).map(|s| s.checked).map_err(|e| e.to_string())
}

fn refused(more: &[&str], variables: &[(&str, &str)], text: Option<&str>) -> String {
    given(&[&GOOD, more].concat(), variables, text).map(drop).expect_err("refused")
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file_which_wins_over_the_default() {
    let patience = |flags: &[&str], variables: &[(&str, &str)], text| {
        given(&[&GOOD, flags].concat(), variables, text).expect("valid").patience.as_millis()
    };
    let (flag, variable, file) =
        (["--patience-ms", "40"], [("WALFABRIC_PATIENCE_MS", "30")], Some("patience_ms = 2_0\n"));
    assert_eq!(patience(&[], &[], None), 50);
    assert_eq!(patience(&[], &[], file), 20);
    assert_eq!(patience(&[], &[("WALFABRIC_PATIENCE_MS", "")], file), 20, "an empty variable is none");
    assert_eq!(patience(&[], &variable, file), 30);
    assert_eq!(patience(&flag, &variable, file), 40);
    assert_eq!(patience(&flag, &[("WALFABRIC_PATIENCE_MS", "x")], file), 40, "nobody asks for it");
}

#[test]
fn everything_can_stand_in_the_file_and_the_environment_can_name_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("all.toml");
    let text = "id = 3\ndata_dir = \"/d\"\nlisten_pg = \"127.0.0.1:1\"\nlisten_http = \"127.0.0.1:2\"\nbroker = \
                \"http://b:1\"\nfriends = [\"a:1\", \"b:2\"]\nrelaxed = true\nlog_format = \"json\"\n";
    std::fs::write(&path, text).expect("written");
    let environment = |name: &str| (name == "WALFABRIC_CONFIG").then(|| path.display().to_string());
    let settings = read::<PlantedSettings, &str>(&[], &environment).expect("valid").checked;
    assert_eq!((settings.node.id.0, settings.node.data_dir), (3, PathBuf::from("/d")));
    assert_eq!((settings.friends, settings.relaxed), (vec!["a:1".to_owned(), "b:2".to_owned()], true));
    assert_eq!(settings.process.log_format, LogFormat::Json);
    let settings = given(&GOOD, &[("WALFABRIC_FRIENDS", "a:1,b:2")], None).expect("valid");
    assert_eq!(settings.friends.len(), 2);
}

#[test]
fn an_error_names_its_place_the_value_and_the_bound() {
    assert_eq!(refused(&["--patience-ms", "9"], &[], None), "--patience-ms \"9\": expected 10 to 1000");
    let text = refused(&[], &[("WALFABRIC_PATIENCE_MS", "9")], None);
    assert_eq!(text, "WALFABRIC_PATIENCE_MS \"9\": expected 10 to 1000");
    let text = refused(&[], &[], Some("relaxed = true\npatience_ms = 9\n"));
    assert!(text.ends_with("planted.toml, line 2: patience_ms \"9\": expected 10 to 1000"), "{text}");
    let text = refused(&[], &[], Some("log_format = \"xml\"\n"));
    assert!(text.ends_with("line 1: log_format \"xml\": expected text or json"), "{text}");
    let text = given(&GOOD[..8], &[("WALFABRIC_BROKER", "b:1")], None).map(drop).expect_err("no URL");
    assert_eq!(text, "WALFABRIC_BROKER \"b:1\": expected a URL", "also of what is judged at the end");
    let text = given(&GOOD[2..], &[], None).map(drop).expect_err("no id");
    assert_eq!(text, "--id is missing: give the flag, or id in the file of --config");
    let wildcard: Vec<&str> = GOOD.iter().enumerate().map(|(n, w)| if n == 5 { "0.0.0.0:5454" } else { w }).collect();
    let text = given(&wildcard, &[], None).map(drop).expect_err("a wildcard");
    assert_eq!(text, "--advertise-pg \"\": is needed because 0.0.0.0:5454 is not an address that others can dial");
    for (flag, value) in [("--id", "0"), ("--broker-prefix", "/"), ("--advertise-http", "host"), ("--log-format", "x")]
    {
        let words: Vec<&str> = GOOD.iter().copied().filter(|word| !["--id", "7"].contains(word)).collect();
        let text = given(&[&words, &[flag, value][..]].concat(), &[], None).map(drop).expect_err(flag);
        assert!(text.contains(flag) && text.contains(value), "{text}");
    }
}

#[test]
fn files_that_are_none_and_unknown_names_are_refused_with_the_line_and_without_the_text() {
    let text = refused(&[], &[], Some("relaxed = true\nidd = 3\n"));
    assert!(text.contains("planted.toml: line 2: unknown field `idd`") && text.contains("`listen_pg`"), "{text}");
    for flag_only in ["take_over = true", "check_config = true", "config = \"x\""] {
        assert!(refused(&[], &[], Some(flag_only)).contains("unknown field"), "{flag_only}");
    }
    let text = refused(&[], &[], Some("\npassword = \"secret1\n"));
    assert!(text.contains("line 2: ") && !text.contains("secret1"), "{text}");
    let text = refused(&[], &[], Some("password = [\"secret1\"]"));
    assert!(text.contains("password: expected one value") && !text.contains("secret1"), "{text}");
    let text = refused(&[], &[("WALFABRIC_PASSWORD", "my secret1")], None);
    assert_eq!(text, "WALFABRIC_PASSWORD \"...\": expected one word");
    assert!(refused(&["--config", "/nonexistent/f"], &[], None).contains("/nonexistent/f"), "no such file");
}

#[test]
fn what_is_shown_has_no_secrets_and_what_was_typed_is_known() {
    let words = [&GOOD[..], &["--password", "secret1"]].concat();
    let settings = given(&words, &[("WALFABRIC_PATIENCE_MS", "30")], Some("friends = [\"a:1\"]")).expect("valid");
    let shown = |key: &str| settings.process.shown.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    assert_eq!((shown("id"), shown("patience_ms"), shown("friends")), (Some("7"), Some("30"), Some("a:1")));
    assert_eq!((shown("password"), shown("relaxed")), (None, Some("false")));
    let typed = |key: &str| settings.process.typed.iter().any(|k| k == key);
    assert!(typed("password") && typed("id") && !typed("patience_ms") && !typed("friends"));
}

#[test]
fn the_reference_has_every_setting_with_its_places_its_bound_and_its_meaning() {
    let page = reference(&PlantedSettings::command());
    let entry = "\n- `--patience-ms MS`, `patience_ms`, `WALFABRIC_PATIENCE_MS`\n  \
                 Default `50`, expected 10 to 1000. How long nobody minds.\n";
    assert!(page.contains(entry), "{page}");
    assert!(page.contains("`--id N`, `id`, `WALFABRIC_ID`\n  Required, expected 1 or more."), "{page}");
    assert!(page.contains("`--take-over`, on the command line only"), "{page}");
    assert!(page.contains("`--relaxed`, `relaxed`, `WALFABRIC_RELAXED`\n  Whether all is well."), "{page}");
    assert!(page.contains("`--config FILE`, `WALFABRIC_CONFIG`"), "{page}");
    assert!(page.lines().all(|line| line.len() <= 100), "{page}");
}
