//! What the compiler says about the attribute: `ui/fail` has a file for each message, and `ui/pass` one for each way
//! of writing a service.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/fail/*.rs");
}
