//! `hookstream config`: writes and shows the named profiles.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use url::Url;

use super::failure::{CommandResult, Failure, OrFail};
use super::flags::parse_url;
use super::output::{self, HELP, OutputFormat, print_line};
use super::profiles::{Profile, ProfileFile, profile_path};

/// Manage named profiles: which worker or cluster the commands use.
///
/// The profiles are in $XDG_CONFIG_HOME/hookstream/config.yaml (default: ~/.config), which only its owner can read. It
/// contains paths of token files and no tokens. Flags and variables take precedence over a profile.
///
/// Example: hookstream config set-profile prod --context prod-cluster --namespace shop
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum ConfigCommand {
    SetProfile(SetProfileArgs),
    UseProfile(UseProfileArgs),
    View(ViewArgs),
}

/// Create a profile, or change the given settings of an existing one. An empty value removes a setting.
///
/// Example: hookstream config set-profile local --url http://127.0.0.1:8082 --token-file ./token
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct SetProfileArgs {
    /// The name of the profile.
    #[arg(value_parser = parse_name)]
    name: String,
    /// The URL of the worker's API port.
    #[arg(long, value_name = "URL", value_parser = parse_optional_url)]
    url: Option<Setting>,
    /// The URL of the worker's ingest port.
    #[arg(long, value_name = "URL", value_parser = parse_optional_url)]
    ingest_url: Option<Setting>,
    /// The kubeconfig file.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// The context of the kubeconfig: the worker is found in its cluster.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The namespace of the events and hooks.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// A file with the bearer token to send.
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// A file with the certificate authorities of --url, in PEM format.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// The ServiceAccount to call as, if the worker is in a cluster.
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// The audience that the worker requires (its --token-audience).
    #[arg(long, value_name = "AUDIENCE")]
    token_audience: Option<String>,
}

/// The text of a setting; empty: it is removed.
#[derive(Clone)]
struct Setting(String);

/// Use a profile for all commands without --profile.
///
/// Example: hookstream config use-profile prod
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct UseProfileArgs {
    /// The name of the profile.
    name: String,
}

/// Show the profiles.
///
/// Example: hookstream config view --output yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ViewArgs {
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

pub fn run(command: ConfigCommand) -> CommandResult {
    let path = profile_path()?;
    let mut file = ProfileFile::read(&path)?;
    match command {
        ConfigCommand::SetProfile(args) => {
            let name = args.name.clone();
            let mut profile = file.profiles.remove(&name).unwrap_or_default();
            args.apply(&mut profile)?;
            if let Some(problem) = profile.problem() {
                return Err(Failure::new(format!(
                    "profile {name}: {problem} (remove one with an empty value)"
                )));
            }
            file.profiles.insert(name.clone(), profile);
            file.write(&path)?;
            print_line(&format!("profile {name} is in {}", path.display()));
        }
        ConfigCommand::UseProfile(UseProfileArgs { name }) => {
            if !file.profiles.contains_key(&name) {
                return Err(file.unknown(&name));
            }
            file.current_profile = Some(name.clone());
            file.write(&path)?;
            print_line(&format!("commands use profile {name}"));
        }
        ConfigCommand::View(args) => view(&file, args.output)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl SetProfileArgs {
    fn apply(self, profile: &mut Profile) -> Result<(), Failure> {
        set(&mut profile.url, self.url.map(|Setting(text)| text));
        set(&mut profile.ingest_url, self.ingest_url.map(|Setting(text)| text));
        set(&mut profile.context, self.context);
        set(&mut profile.namespace, self.namespace);
        set(&mut profile.service_account, self.service_account);
        set(&mut profile.token_audience, self.token_audience);
        set(&mut profile.kubeconfig, absolute(self.kubeconfig)?);
        set(&mut profile.token_file, absolute(self.token_file)?);
        set(&mut profile.ca_file, absolute(self.ca_file)?);
        Ok(())
    }
}

/// Changes a setting if one is given. An empty one removes it.
fn set<T: AsRef<Path>>(setting: &mut Option<T>, value: Option<T>) {
    if let Some(value) = value {
        *setting = Some(value).filter(|value| !value.as_ref().as_os_str().is_empty());
    }
}

/// Makes a path independent of the working directory.
fn absolute(path: Option<String>) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = path else { return Ok(None) };
    if path.is_empty() {
        return Ok(Some(PathBuf::new()));
    }
    std::path::absolute(&path).map(Some).or_fail(|| path)
}

fn parse_name(text: &str) -> Result<String, &'static str> {
    let is_name_char = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=63).contains(&text.len()) && text.bytes().all(is_name_char) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 63 letters, digits, '-', '_' or '.'")
    }
}

fn parse_optional_url(text: &str) -> Result<Setting, String> {
    let url: Option<Url> =
        if text.is_empty() { None } else { Some(parse_url(text).map_err(|error| error.to_string())?) };
    Ok(Setting(url.map(|url| url.to_string()).unwrap_or_default()))
}

fn view(file: &ProfileFile, format: OutputFormat) -> Result<(), Failure> {
    if format != OutputFormat::Table {
        return output::print_value(format, file);
    }
    let rows = file.profiles.iter().map(|(name, profile)| {
        let is_current = file.current_profile.as_ref() == Some(name);
        let cluster =
            profile.context.clone().or_else(|| Some(profile.kubeconfig.as_ref()?.display().to_string()));
        let target = profile.url.clone().or(profile.ingest_url.clone()).or(cluster);
        let mark = if is_current { "*" } else { "" };
        let namespace = profile.namespace.clone().unwrap_or_default();
        [mark.to_owned(), name.clone(), target.unwrap_or_default(), namespace]
            .map(|text| output::strip_control_chars(&text))
    });
    output::table_lines(["CURRENT", "NAME", "TARGET", "NAMESPACE"], rows)
        .iter()
        .for_each(|line| print_line(line));
    Ok(())
}
