//! Values of options in a configuration file: each type is written as its text.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::address::Address;
use crate::base::probe::Probe;
#[cfg(feature = "tokio")]
use crate::config::choices::Flavor;
use crate::config::choices::{Supervise, UpgradeSignal};
use crate::lifecycle::Overlap;

macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(|error| D::Error::custom(format_args!("`{text}`: {error}")))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

as_text!(Address, Overlap, Probe, Supervise, UpgradeSignal);
#[cfg(feature = "tokio")]
as_text!(Flavor);

#[cfg(upgrades)]
#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Config {
        listen: Address,
        overlap: Option<Overlap>,
        supervise: Supervise,
        upgrade_signal: UpgradeSignal,
        probe: Probe,
    }

    #[test]
    fn an_option_in_a_configuration_file_is_its_text() {
        let text = r#"{"listen":"localhost:80","overlap":"wait","supervise":"never","upgrade_signal":"SIGUSR2","probe":"GET /"}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.listen.to_string(), "tcp://localhost:80");
        assert_eq!(config.overlap, Some(Overlap::Wait));
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(written, text.replace("localhost", "tcp://localhost"));
        assert_eq!(serde_json::from_str::<Config>(&written).unwrap(), config);
    }

    #[test]
    fn a_value_that_does_not_parse_is_quoted_with_what_is_expected() {
        let problem = |text: &str| serde_json::from_str::<Overlap>(text).unwrap_err().to_string();
        assert!(problem(r#""never""#).starts_with("`never`: expected one of refuse, wait, hasten"));
        assert!(problem("1").starts_with("invalid type: integer `1`, expected a string"));
        let address = serde_json::from_str::<Address>(r#""localhost""#).unwrap_err().to_string();
        assert!(address.starts_with("`localhost`: the port is missing"), "{address}");
    }
}
