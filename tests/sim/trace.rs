//! What happened, for people: one line each, who did what when.

use statekeeper::protocol::shard::{Answer, Input, Msg, Ran, Request};

use super::process::{Call, Counted, decode};

/// What a part is told; none of what is not worth a line.
pub fn input(input: &Input) -> Option<String> {
    Some(match input {
        Input::Tick | Input::Refuse => return None,
        Input::Request {
            token,
            key,
            request,
            hint,
        } => {
            let hint = hint
                .as_ref()
                .map_or(String::new(), |to| format!(", try {to}"));
            format!("client {token} asks {key:?}: {}{hint}", asked(request))
        }
        Input::Ran { key, gen_, ran } => format!("actor {key:?} of {gen_} {}", came(ran)),
        Input::Served {
            token,
            key,
            gen_,
            request,
            ran,
        } => format!(
            "client {token} asked actor {key:?} of {gen_}: {} and {}",
            asked(request),
            came(ran)
        ),
        Input::Install(view) => format!("install {} of {}", view.epoch, view.cluster),
        Input::Message { from, epoch, msg } => format!("from {from} in {epoch}: {}", message(msg)),
        Input::Locate { .. }
        | Input::Cancel { .. }
        | Input::Exited { .. }
        | Input::Restart { .. }
        | Input::Rest { .. }
        | Input::Heal
        | Input::Linked
        | Input::Leased
        | Input::Quiesce => format!("{input:?}"),
    })
}

fn came(ran: &Ran) -> String {
    match ran {
        Ran::Done { reply, data } => {
            let backed_up = if data.is_some() { "" } else { ", no change" };
            format!("says {}{backed_up}", told(reply))
        }
        Ran::Failed(_) => "fails".to_owned(),
        Ran::Unknown => "cannot tell".to_owned(),
    }
}

fn message(msg: &Msg) -> String {
    match msg {
        Msg::Grant { key, gen_, ver, .. } => format!("grant {key:?} of {gen_} version {ver}"),
        Msg::Put { key, gen_, ver, .. } => format!("put {key:?} of {gen_} version {ver}"),
        Msg::Hold { key, gen_, ver, .. } => format!("hold {key:?} of {gen_} version {ver}"),
        Msg::Forward {
            key,
            token,
            request,
        } => format!("forward {token} to {key:?}: {}", asked(request)),
        Msg::Reply { token, answer } => match answer {
            Answer::Reply(reply) => format!("reply to {token}: {}", told(reply)),
            Answer::Failed(_)
            | Answer::Overloaded
            | Answer::Leaving
            | Answer::NotServing
            | Answer::Unknown => format!("reply to {token}: {answer:?}"),
        },
        Msg::Claim { .. }
        | Msg::OwnerIs { .. }
        | Msg::PutAck { .. }
        | Msg::HoldAck { .. }
        | Msg::Done { .. }
        | Msg::Locate { .. }
        | Msg::Inquire { .. }
        | Msg::Report { .. }
        | Msg::Located { .. } => format!("{msg:?}"),
    }
}

fn asked(request: &Request) -> String {
    let Call {
        op, is_read, fails, ..
    } = decode(&request.payload);
    let what = match (is_read, fails) {
        (_, true) => "fail",
        (true, false) => "read",
        (false, false) => "write",
    };
    let (again, id) = (
        if request.again { " again" } else { "" },
        if request.id.is_some() {
            ""
        } else {
            " without an id"
        },
    );
    format!("{what} {op}{again}{id}")
}

fn told(reply: &[u8]) -> String {
    let Counted {
        op, is_read, count, ..
    } = decode(reply);
    if is_read {
        format!("read {op} sees {count}")
    } else {
        format!("write {op} is number {count}")
    }
}
